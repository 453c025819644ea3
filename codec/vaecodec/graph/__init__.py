"""Define the graph of a codec file: ``nodes`` lists the graphs that exist, and ``check`` refuses all others."""
