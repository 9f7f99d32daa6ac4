"""The paper's tables and figures as studies: frozen, versioned sets of runs, and what the paper prints beside them."""
