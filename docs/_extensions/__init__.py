"""What the site needs of Sphinx beyond what there is: formulas without a network, docstrings that are plain text."""
