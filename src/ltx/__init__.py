"""ltx: experiments on the Lottery Ticket Hypothesis."""
