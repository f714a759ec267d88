"""What the commands of the command line do, one module each. Each returns an exit status: 0 done, 1 no or failed."""
