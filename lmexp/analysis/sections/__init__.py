"""The parts of the report: each turns an analysis into what its template shows; None when there is nothing to say."""
