"""Classical dictionary learning and sparse inference."""
