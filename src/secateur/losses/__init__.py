"""Distillation losses and constraints on cost."""
