"""What is out of the ordinary in an iteration: votes, signs of instability, faults."""
