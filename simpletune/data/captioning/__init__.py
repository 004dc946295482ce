"""`simpletune caption`: captions for pictures, written by a model that sees them."""
