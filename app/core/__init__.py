"""Foundations of every other package: errors, console, atomic files, processes, and the imports of tmrl."""
