"""What is optimised: one objective a file, each a function of embeddings."""
