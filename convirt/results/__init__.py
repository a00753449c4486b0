"""From single results to what people read: the summary, the pages, tables and figures."""
