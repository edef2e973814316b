"""What every source of text promises; its errors are those of `btc_assets.transport`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from btc_assets.news.dates import Precision

Kind = Literal["article", "post"]


@dataclass(frozen=True)
class Item:
    """One text as a source gave it, already plain: no markup, no control or bidi characters, bounded in length.

    Attributes:
        kind: article or post.
        source: name of the feed or service, as metadata and checks show it.
        guid: what the source names it by; with `url` empty, its identity is source and guid.
        url: as given, http or https; empty where there is none.
        title: title of an article; first line of a post.
        summary: summary of an article or body of a post; may be empty.
        published_at: what the publisher says, UTC; None where it is absent or unreadable.
        precision: how exactly `published_at` is told.
        first_seen_at: when an archive first saw it, UTC; None where it has no such stamp.
        outlet: domain of the publisher of an article; platform of a post.
        channel: subreddit, list or the like.
        points: votes, where known.
        comments: number of comments, where known.
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
    """What one source gave when asked once.

    Attributes:
        items: in the order given; an item may be one that was delivered before.
        faults: sentences about entries that were left out, the rest of the answer being usable.
        unchanged: whether the source said that nothing is new since it was last asked (HTTP 304).
    """

    items: list[Item]
    faults: list[str] = field(default_factory=list)
    unchanged: bool = False


class TextSource(Protocol):
    """Where articles or posts come from.

    Attributes:
        name: of the source, unique, for tables and messages.
        kinds: what it gives.
        live: whether it is asked over the network now, so that what is new was first seen now; an archive instead
            tells or declares when each item became available.
        lag: from publication to availability for items of history without a first-seen time.
        rhythm: longest silence that is usual; None where silence says nothing.
    """

    name: str
    kinds: tuple[Kind, ...]
    live: bool
    lag: timedelta
    rhythm: timedelta | None

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        """Return the items that may have become available with `first` <= available_at < `last`.

        A feed gives what it holds, whatever the span. A source with history (`live` search services and archives)
        gives items published from `first` - lag on and before `last`; what it gives beyond that is left out later.

        Args:
            first: start of the span, UTC.
            last: its end, UTC, exclusive.
            now: the moment asked at, UTC.

        Raises:
            SourceError: there is no answer, or none that can be trusted; the message is a sentence for a person.
        """
        ...
