"""What is learned: one file a kind of problem, chosen by `config.problem`."""
