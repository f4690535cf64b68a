"""Modules of cut models with shapes that stock classes cannot express, and changes of stock modules."""
