"""`make demo`: a real order system is moved, then moved again with a fault and taken back."""
