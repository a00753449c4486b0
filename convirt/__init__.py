"""ConVIRT (arXiv 2010.00747): contrastive learning of medical visual representations from pairs."""
