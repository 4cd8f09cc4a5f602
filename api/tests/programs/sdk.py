"""Reports calls through the CloudEvents SDK for Python, as its users do: python sdk.py URL TOKEN.

Prints one line for each request: what was sent, and the status of its answer.
"""

import sys
import warnings
from datetime import datetime, timezone

import requests
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1.http import CloudEvent as OldCloudEvent
from cloudevents.v1.http import to_binary, to_structured

# The interface of version 1, which most senders still use, says that it is deprecated.
warnings.simplefilter("ignore")
URL, TOKEN = sys.argv[1:]


def send(name, headers, body):
    headers = {**headers, "Authorization": f"Bearer {TOKEN}"}
    answer = requests.post(URL, headers=headers, data=body, timeout=30)
    print(f"{name} {answer.status_code} {answer.text if answer.status_code >= 300 else ''}")


def call(number):
    return {"endpoint": "/api/analyze", "method": "POST", "status_code": 200, "units": number}


# Version 1: by default without a datacontenttype, and thus without a Content-Type in binary mode.
for number, more in enumerate([{}, {"datacontenttype": "application/json"}], 1):
    attributes = {"type": "api.call", "source": "https://svc.example.test/x", "subject": "cust-1", **more}
    for mode in [to_binary, to_structured]:
        event = OldCloudEvent({**attributes, "id": f"py1-{number}-{mode.__name__}"}, call(1))
        send(f"v1 {mode.__name__} {number}", *mode(event))

# The present version: names that must be encoded in headers, a time, an extension, and data as bytes.
for number, data in enumerate([call(1), b'{"endpoint":"/api/analyze"}'], 1):
    for mode in [to_binary_event, to_structured_event]:
        attributes = {
            "type": "api.call",
            "source": "/svc",
            "id": f'py2-{number}-{mode.__name__} "€" 100% \N{GRINNING FACE}',
            "subject": "Größe 1",
            "specversion": "1.0",
            "time": datetime.now(timezone.utc),
            "datacontenttype": "application/json",
            "region": "eu",
        }
        message = mode(CloudEvent(attributes, data))
        send(f"v2 {mode.__name__} {number}", message.headers, message.body)
