"""What each of torch's operators is among layers, one file for each kind of operator."""
