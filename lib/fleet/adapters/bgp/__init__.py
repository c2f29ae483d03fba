"""BGP: the sessions of nodes, as the core routers have them."""
