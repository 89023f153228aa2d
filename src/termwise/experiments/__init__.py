"""Experiments: one file each, with its question, its protocol, and what was expected beside what is found."""
