"""Text in, batches out: corpora, the tokenizer, the prepared folder and the data loader that shares it over workers."""
