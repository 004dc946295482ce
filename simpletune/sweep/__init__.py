"""`simpletune sweep`: the same training with other values of some keys, every combination, and what came of each."""
