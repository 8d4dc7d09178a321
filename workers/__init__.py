"""Where and when a trial runs: ledger, leases, sandbox, routing to hardware."""
