"""The protocol of every text source; its errors are those of `btc_assets.transport`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from btc_assets.news.dates import Precision

Kind = Literal["article", "post"]


@dataclass(frozen=True)
class Item:
    """One text from a source, already plain: no markup, no control or bidi characters, bounded length.

    Attributes:
        kind: article or post.
        source: name of the feed or service, as shown in metadata and checks.
        guid: id at the source; if `url` is empty, source and guid identify the text.
        url: address from the source, http or https; empty if there is none.
        title: title of an article; first line of a post.
        summary: summary of an article or body of a post; may be empty.
        published_at: publication time stated by the publisher, UTC; None if missing or unreadable.
        precision: precision of `published_at`.
        first_seen_at: when an archive first saw the text, UTC; None if it states no such time.
        outlet: domain of the publisher of an article; platform of a post.
        channel: subreddit, list or similar.
        points: votes, if known.
        comments: number of comments, if known.
        is_repost: whether it repeats another post.
    """

    kind: Kind
    source: str
    guid: str
    url: str
    title: str
    summary: str
    published_at: datetime | None
    precision: Precision
    outlet: str
    first_seen_at: datetime | None = None
    channel: str = ""
    points: int | None = None
    comments: int | None = None
    is_repost: bool = False


@dataclass(frozen=True)
class Delivery:
    """The result of one successful fetch.

    Attributes:
        items: texts in the order of the response; they may include texts from earlier deliveries.
        faults: sentences about entries that were left out or are missing; the other entries are usable.
        unchanged: whether the source reported no change since the last fetch (HTTP 304).
    """

    items: list[Item]
    faults: list[str] = field(default_factory=list)
    unchanged: bool = False


class TextSource(Protocol):
    """A source of articles or posts.

    Attributes:
        name: unique name for tables and messages.
        kinds: kinds of texts that it delivers.
        live: whether it is queried over the network, so that new texts are first seen now; an archive instead states
            or declares when each text became available.
        lag: from publication to availability, for historical texts without a first-seen time.
        rhythm: longest normal silence; None if silence is not a warning sign.
    """

    name: str
    kinds: tuple[Kind, ...]
    live: bool
    lag: timedelta
    rhythm: timedelta | None

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        """Return the items that may have become available with `first` <= available_at < `last`.

        A feed returns its current entries for any span. A source with history (`live` search services and archives)
        returns items with `first` - lag <= publication time < `last`; filing removes items outside the span.

        Args:
            first: start of the span, UTC.
            last: its end, UTC, exclusive.
            now: the time of the request, UTC.

        Raises:
            SourceError: the source did not answer or its answer is invalid; the message is a readable sentence.
        """
        ...
