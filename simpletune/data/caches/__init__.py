"""Encoded pictures, captions and masks on disk: making them, finding them, mending them, removing what nobody needs."""
