"""Operations on whole studies, for a person or a scheduler: check, rerun, look back, explain, pack, verify."""
