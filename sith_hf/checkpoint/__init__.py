"""Write an edit into a copy of a checkpoint, verify the copy, take the edit out again, or export it as a LoRA adapter."""
