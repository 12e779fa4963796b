"""Rules of language: what a caller said, read by hand-written rules.

They are features of the learned scorer (`agents`), beside the LLM's, and play
alone in the reference `rules_alone`. No rule reads a gold action.

  retail    clauses -> things, variants -> story (conditions) -> reading;
            addresses, payments
  airline   asked -> trips, itineraries -> bookings
  both      intents (what the rules would do next), answers, trip_answers
"""
