"""The verbs of the `portside` command, thin: parse, call one function of one room, print the result."""
