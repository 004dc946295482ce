"""What `sources/huggingface.py` is made of: finding a data set's rows, fetching and streaming them, reading them."""
