"""Programs that use a deployment from outside: the command line, the doctor, the cost estimate."""
