"""Retrieve passages for a language model, with LangChain over a compressed Qdrant collection.

    pip install 'vaecodec[qdrant,langchain,sklearn]' langchain-qdrant
    python examples/rag_langchain.py "How do I roll back a migration?"

The documents are this project's own guides. Nothing is downloaded, so two places are kept for models of your own:

- *Embeddings.* `Words` counts words, a number for each that stands in two passages or more: a real vector space, but
  one that knows words, not meanings. Put your model in its place (`HuggingFaceEmbeddings`, `OpenAIEmbeddings`) with
  the codec that you trained on its embeddings. The few hundred passages here are enough for a linear codec only,
  which is fitted on the spot.
- *The language model.* The chain ends with the prompt, which is printed: `chain | ChatOpenAI(...)` would answer it.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient
from sklearn.feature_extraction.text import TfidfVectorizer

from vaecodec import fit_linear
from vaecodec_integrations.qdrant import CompressedQdrantClient

GUIDES = Path(__file__).parent.parent / "docs"
PROMPT = """Answer from these passages only, and say which one.

{context}

Question: {question}"""


class Words(Embeddings):
    """Embed texts as weighted counts of their words (TF-IDF)."""

    def __init__(self, texts: list[str]) -> None:
        self.counts = TfidfVectorizer(stop_words="english", sublinear_tf=True, min_df=2)
        self.counts.fit(texts)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.counts.transform(texts).toarray().tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    question = parser.parse_args().question

    documents = passages(GUIDES)
    texts = [document.page_content for document in documents]
    embeddings = Words(texts)
    codec = fit_linear(embeddings.embed_documents(texts), 128)  # with a model: Codec.load("vae128.onnx")

    client = CompressedQdrantClient(QdrantClient(":memory:"), codec)
    client.create_collection("guides")
    store = QdrantVectorStore(client=client, collection_name="guides", embedding=embeddings)
    store.add_documents(documents)
    print(f"{len(documents)} passages, {4 * codec.dim:,} bytes each as they are, {4 * codec.code_dim} compressed\n")

    chain = (
        {"context": store.as_retriever(search_kwargs={"k": 3}) | quoted, "question": RunnablePassthrough()}
        | ChatPromptTemplate.from_template(PROMPT)
        # | ChatOpenAI(model=...) | StrOutputParser()
    )
    print(chain.invoke(question).to_string())
    client.close()


def passages(folder: Path) -> list[Document]:
    """Return the paragraphs of all guides, each under the title of its section."""
    found: list[Document] = []
    for page in sorted(folder.glob("*.md")):
        for section in re.split(r"^(?=## )", page.read_text(), flags=re.MULTILINE):
            title, _, body = section.partition("\n")
            title = title.lstrip("# ")
            # Tables and code stay with the text that introduces them.
            paragraphs = re.split(r"\n\n(?=[^|`\s])", body.strip())
            source = {"source": f"{page.name}: {title}"}
            found.extend(Document(f"{title}\n{paragraph}", metadata=source) for paragraph in paragraphs)
    return found


def quoted(documents: list[Document]) -> str:
    """Format passages for the prompt."""
    return "\n\n".join(f"[{document.metadata['source']}]\n{document.page_content}" for document in documents)


if __name__ == "__main__":
    main()
