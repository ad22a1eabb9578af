"""Foreign weight files to tensors under our names."""
