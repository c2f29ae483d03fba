"""Load balancers before the apiservers: who gets new connections, and who says so."""
