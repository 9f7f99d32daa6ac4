"""Networks: rows harvested at their sites, and what they lose when a reconstruction or an edit stands there."""
