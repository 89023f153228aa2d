"""Other programs that Termwise works with; each file needs an extra, and nothing is imported until it is used."""
