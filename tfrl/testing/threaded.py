"""A module whose import starts a thread, as a fork server must notice."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
