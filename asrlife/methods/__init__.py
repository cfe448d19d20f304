"""What makes a recogniser better: methods turn evidence into changed weights, each family in its own package."""
