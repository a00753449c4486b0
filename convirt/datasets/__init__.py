"""One reader a layout, all of them returning the same tables; `registry.py` lists them."""
