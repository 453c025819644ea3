"""The graph of a codec file: ``nodes`` says which graphs there are, and ``check`` refuses all others."""
