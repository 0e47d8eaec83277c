"""What belongs to other packages and protocols; nothing here is needed by the rest."""
