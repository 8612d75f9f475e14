"""Talk to the Hugging Face Hub, knowing no type of this project: download, upload, errors, the ``push_to_hub`` mixin."""
