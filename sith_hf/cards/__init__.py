"""Model cards: the facts they state, the code they show, their picture, and text from outside made harmless in Markdown."""
