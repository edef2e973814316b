"""Build the embedded sample of texts: synthetic headlines and posts, 2019-07-01 to 2019-09-30.

`python btc_assets/sample/build_headlines.py` writes both files. Texts and times are drawn from the templates below with a
fixed seed, without prices, real articles, real persons or companies, so they contain no information about a market.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ARTICLES = HERE / "synthetic_articles.jsonl"
POSTS = HERE / "synthetic_posts.jsonl"
FIRST = datetime(2019, 7, 1, tzinfo=UTC)
DAYS = 92
SEED = 20190701
SILENT_DAYS = (17, 48, 69)
"""Days without any text, counted from the first day."""

OUTLETS = (
    "coin-courier.example", "daily-satoshi.example", "ledger-lines.example", "chain-gazette.example",
    "block-bulletin.example", "markets.example.com", "wire.example.net", "hashrate-herald.example",
    "the-mempool.example.org", "digital-asset-desk.example",
)  # fmt: skip
FILL = {
    "exchange": (
        "Northwind Exchange", "Harbor Markets", "Tidewater Exchange", "Alder & Finch", "Kestrel Trade", "Meridian Spot",
        "Bluebell Exchange", "Ironwood Markets",
    ),
    "firm": (
        "Lantern Capital", "Granite Peak Funds", "Osprey Row", "Willow Bank", "Redwood Pension Trust", "Copperline",
        "Saltmarsh Ventures", "Quillfeather Partners", "Stonebridge Asset Management", "Halcyon Insurance",
    ),
    "wallet": ("Satchel Wallet", "Pebble Wallet", "Keyring One", "Vaultling", "Acorn Wallet"),
    "miner": ("Frostfield Mining", "Geyser Hash", "Dambuster Energy", "Polar Rigs", "Basalt Mining"),
    "country": ("Freedonia", "Ruritania", "Sylvania", "Borduria", "Elbonia", "Grand Fenwick", "Zubrowka", "Latveria"),
    "body": ("finance ministry", "central bank", "markets authority", "tax office", "parliament", "supreme court"),
    "city": ("Port Hollow", "Lakeside", "Old Quarry", "New Harbour", "Westbrook", "Saint Elm"),
    "product": ("futures", "options", "an exchange-traded note", "a savings account", "margin loans", "custody"),
    "n": ("two", "three", "four", "five", "six", "seven", "nine", "a dozen"),
    "sum": ("$4 million", "$7 million", "$11 million", "$18 million", "$26 million", "$40 million", "$75 million"),
    "coins": ("310", "540", "1,200", "2,600", "4,050", "7,800"),
    "share": ("8 %", "12 %", "17 %", "23 %", "31 %", "44 %"),
    "group": ("students", "shop owners", "pensioners", "freelancers", "farmers", "small firms"),
}  # fmt: skip
"""Values of the placeholders in templates; the companies are invented, the countries fictional."""

NEWS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("positive", ("{firm} adds bitcoin to its reserve fund", "{firm} adds bitcoin to reserve fund in a first"),
     "The fund says it will hold the coins for at least {n} years."),
    ("positive", ("{exchange} opens bitcoin {product} to clients in {country}",
     "{exchange} opens bitcoin {product} for clients across {country}"), "Demand from {group} was strong, it says."),
    ("positive", ("{country} clears rules that let banks hold bitcoin", "{country} passes rules letting banks hold bitcoin"),
     "The {body} calls the vote a win for savers and for innovation."),
    ("positive", ("Bitcoin network hash rate sets a new record", "Bitcoin hash rate sets new record as miners expand"),
     "{miner} alone brought {n} halls of machines online."),
    ("positive", ("{firm} raises {sum} for a bitcoin payments start-up", "Bitcoin payments start-up of {firm} raises {sum}"),
     "Investors were eager, and the round closed early."),
    ("positive", ("Survey: {share} of {group} in {country} would save in bitcoin",
     "{share} of {group} in {country} would save in bitcoin, survey finds"), "Trust has grown steadily over the year."),
    ("positive", ("{wallet} wins security award after clean audit", "Clean audit earns {wallet} a security award"),
     "The auditors found no serious fault and praised the team."),
    ("positive", ("Shops in {city} report a strong month of bitcoin sales", "Strong month of bitcoin sales for shops in {city}"),
     "Owners are happy with low fees and fast settlement."),
    ("positive", ("{exchange} recovers stolen {sum} and repays every client", "{exchange} repays clients after recovering {sum}"),
     "All {coins} coins were returned, the exchange says."),
    ("positive", ("Lightning payments succeed more often than ever, study says",
     "Study: lightning payments succeed more often than ever"), "Researchers praise better routing and cheaper channels."),
    ("positive", ("Analysts at {firm} turn bullish on bitcoin adoption", "{firm} analysts turn bullish on bitcoin adoption"),
     "They expect steady growth in users over the next {n} years."),
    ("positive", ("{miner} cuts its energy bill with waste heat deal", "Waste heat deal cuts energy bill of {miner}"),
     "Greenhouses near {city} will be heated for free."),
    ("negative", ("{exchange} halts withdrawals after a breach", "{exchange} halts all withdrawals following breach"),
     "About {coins} bitcoin are missing; clients are worried."),
    ("negative", ("{country} bans advertising for bitcoin products", "{country} bans all advertising of bitcoin products"),
     "The {body} warns of heavy losses and of fraud."),
    ("negative", ("Fraud charges filed against a bitcoin fund in {country}", "Bitcoin fund in {country} faces fraud charges"),
     "Prosecutors say {sum} were lost by {group}."),
    ("negative", ("{miner} files for bankruptcy", "Bitcoin miner {miner} files for bankruptcy"),
     "Debts of {sum} could not be refinanced; {n} sites will close."),
    ("negative", ("{wallet} users lose coins to fake update", "Fake update steals coins from {wallet} users"),
     "The attack went unnoticed for {n} days."),
    ("negative", ("{firm} warns clients of a bubble in digital assets", "Digital assets are a bubble, {firm} warns clients"),
     "The note calls the risk of a crash severe."),
    ("negative", ("Regulator fines {exchange} {sum} for weak controls", "{exchange} fined {sum} over weak controls"),
     "The {body} found serious and repeated failures."),
    ("negative", ("{country} rejects bid for a bitcoin fund", "Bid for a bitcoin fund rejected in {country}"),
     "The {body} fears manipulation and poor oversight."),
    ("negative", ("Outage at {exchange} leaves traders locked out", "Traders locked out by outage at {exchange}"),
     "The failure lasted {n} hours; angry clients demand refunds."),
    ("negative", ("Ransom gang demands {coins} bitcoin from {city}", "{city} hit by ransom gang demanding {coins} bitcoin"),
     "Hospitals had to cancel appointments."),
    ("negative", ("Lawsuit accuses {firm} of misleading bitcoin investors", "{firm} misled bitcoin investors, lawsuit claims"),
     "The plaintiffs seek {sum} in damages."),
    ("negative", ("Power cuts force {miner} to shut down machines", "{miner} shuts down machines amid power cuts"),
     "The loss of income threatens jobs in {city}."),
    ("neutral", ("{country} {body} publishes draft on digital assets", "Draft on digital assets published by {country} {body}"),
     "Comments may be sent for {n} weeks."),
    ("neutral", ("Bitcoin conference returns to {city} this autumn", "{city} to host bitcoin conference this autumn"),
     "The programme lists {n} workshops."),
    ("neutral", ("Explained: how bitcoin fees are set", "How bitcoin fees are set: an explainer"),
     "Blocks have room for a limited number of transactions."),
    ("neutral", ("{exchange} changes its fee table from next month", "New fee table at {exchange} from next month"),
     "Some fees rise and others fall."),
    ("neutral", ("Developers schedule the next bitcoin software release", "Next bitcoin software release gets a date"),
     "The list of changes has {n} entries."),
    ("neutral", ("{firm} names a new head of digital assets", "New head of digital assets named at {firm}"),
     "The post had been open for {n} months."),
    ("neutral", ("{country} and {exchange} hold talks on licensing", "Licensing talks between {exchange} and {country}"),
     "Neither side commented on the outcome."),
    ("neutral", ("What is in the {body} report on bitcoin", "The {body} report on bitcoin: what is in it"),
     "The report has {n} chapters and an appendix."),
    ("neutral", ("Bitcoin difficulty adjusts on schedule", "Bitcoin mining difficulty adjusts on schedule"),
     "The next adjustment is due in two weeks."),
    ("neutral", ("{wallet} moves its office to {city}", "{wallet} office moves to {city}"), "The move affects {n} teams."),
    ("neutral", ("Interview: a day at the {miner} control room", "A day in the control room of {miner}"),
     "An engineer walks through a normal shift."),
    ("neutral", ("University of {city} offers a course on ledgers", "Course on ledgers at the University of {city}"),
     "Lectures begin in the autumn."),
)  # fmt: skip
"""Sentiment, templates of the headline (the later ones for repeats by other outlets), and the summary."""

CHAT: tuple[str, ...] = (
    "Just paid for coffee in {city} with bitcoin, took two seconds. Love it!",
    "Three years of saving every week and never happier. Stay strong everyone!",
    "{wallet} is amazing, set it up for my parents in five minutes",
    "great meetup in {city} yesterday, so many smart people, thank you all",
    "my node has been up for {n} months without a hiccup, proud of the little thing",
    "bullish on this community, everyone helped me recover my wallet today",
    "{exchange} support actually answered and fixed it, wow, impressed",
    "Finally convinced {n} friends to hold their own keys. Good day.",
    "I am so tired of {exchange} going down every single time I need it. Terrible.",
    "lost my keys in the move, feeling sick about it",
    "scam warning: someone posing as {wallet} support is stealing seeds, be careful",
    "sold everything, this is going nowhere, worst year ever",
    "fees are awful today, my transaction has been stuck for {n} hours",
    "{exchange} froze my account for no reason, absolutely furious",
    "another fake giveaway, people keep falling for it, so sad",
    "panic everywhere in this chat, I hate it",
    "Which hardware wallet do you use and why?",
    "Is anyone going to the conference in {city}?",
    "How many confirmations do you wait for?",
    "Reading the white paper again, page {n} this time",
    "What does your electricity cost per kWh?",
    "Weekly thread: what did you build?",
    "New here. Where do I start?",
    "Moved {n} coins between my own wallets to tidy up",
    "Does {exchange} support native segwit addresses yet?",
    "Question about fee estimation in the new release",
)
"""Templates of positive, negative and neutral posts."""
CHANNELS = ("bitcoin", "mining", "wallets", "beginners")
PLATFORMS = ("forum.example", "chatter.example")


def filled(wording: str, chosen: dict[str, str]) -> str:
    """Return a template with its placeholders filled and its first letter capitalised."""
    text = wording.format(**chosen)
    return text[0].upper() + text[1:]


def stamp(draw: random.Random, day: int) -> datetime:
    """Draw a second of a day; most texts are written between 06:00 and 22:00 UTC."""
    hour = draw.choices(range(24), weights=[1] * 6 + [5] * 16 + [1] * 2)[0]
    return FIRST + timedelta(days=day, hours=hour, minutes=draw.randrange(60), seconds=draw.randrange(60))


def article(title: str, summary: str, outlet: str, at: datetime, number: int) -> dict[str, Any]:
    """Return one article in the format of the archive."""
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return {
        "id": f"synthetic-{number:04d}",
        "published_at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "outlet": outlet,
        "title": title,
        "summary": summary,
        "url": f"https://{outlet}/{at:%Y/%m/%d}/{slug}",
    }


def build_articles(draw: random.Random) -> list[dict[str, Any]]:
    """Return the articles, sorted by time; about one in five is repeated by other outlets within two days."""
    told: list[tuple[datetime, str, str, str]] = []
    for day in range(DAYS):
        for _ in range(0 if day in SILENT_DAYS else draw.choice((1, 2, 2, 3, 3, 4, 5))):
            _, wordings, summary = draw.choice(NEWS)
            chosen = {name: draw.choice(values) for name, values in FILL.items()}
            outlets = draw.sample(OUTLETS, 3)
            at = stamp(draw, day)
            told.append((at, filled(wordings[0], chosen), filled(summary, chosen), outlets[0]))
            for outlet in outlets[1 : 1 + draw.choices((0, 1, 2), weights=(8, 1.5, 0.5))[0]]:
                at += timedelta(minutes=draw.randrange(20, 600))
                if (at - FIRST).days < DAYS and (at - FIRST).days not in SILENT_DAYS:
                    told.append((at, filled(draw.choice(wordings), chosen), filled(summary, chosen), outlet))
    return [article(title, summary, outlet, at, n) for n, (at, title, summary, outlet) in enumerate(sorted(told))]


def build_posts(draw: random.Random) -> list[dict[str, Any]]:
    """Return the posts, sorted by time; about one in ten repeats an earlier post."""
    posts: list[dict[str, Any]] = []
    for day in range(DAYS):
        for at in sorted(stamp(draw, day) for _ in range(0 if day in SILENT_DAYS else draw.choice((0, 1, 2, 2, 3)))):
            chosen = {name: draw.choice(values) for name, values in FILL.items()}
            repeats = bool(posts) and draw.random() < 0.1
            text = f"RT {draw.choice(posts[-20:])['text']}" if repeats else draw.choice(CHAT).format(**chosen)
            posts.append(
                {
                    "post_id": f"synthetic-{len(posts):04d}",
                    "posted_at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
                    "platform": draw.choice(PLATFORMS),
                    "channel": draw.choice(CHANNELS),
                    "text": text,
                    "is_repost": repeats,
                }
            )
    return posts


def lines(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as JSON Lines."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


def build() -> dict[Path, bytes]:
    """Return the content of every file."""
    draw = random.Random(SEED)
    return {ARTICLES: lines(build_articles(draw)), POSTS: lines(build_posts(draw))}


if __name__ == "__main__":
    for path, content in build().items():
        path.write_bytes(content)
        print(f"{path.name}: {content.count(b'{')} texts, sha256 {hashlib.sha256(content).hexdigest()}")
