"""One job as several processes: who is there, who died, what they tell each other."""
