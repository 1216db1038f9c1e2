"""What a person or a scheduler does with whole studies: check, rerun, look back, explain, pack, verify."""
