"""Offer the command line: each command reads its options, calls one library function, and prints the result."""
