"""``EditSpec``: an edit as rank-one terms, how it is built, where it comes from, and how it is applied in memory."""
