"""One reader per layout, all returning the same tables; `registry.py` lists them."""
