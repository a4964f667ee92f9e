"""The commands of the command line, one file a family. What is heavy is imported inside the functions."""
