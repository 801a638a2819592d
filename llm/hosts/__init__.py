"""Several hosts, one run: processes that find each other, agree, and notice who is gone.

Every host runs the same command, and every process the same program; JAX makes one machine of
their devices. What is left to do is here: to find the others (``joined``), to decide once what must
not be decided differently (``share``, ``agree``), to divide work that needs no device
(``each_own``), and to bring arrays to the hosts and back (``fetch``, ``spread``). With one process
all of it is the identity.
"""

from llm.hosts.arrays import Vote as Vote
from llm.hosts.arrays import fetch as fetch
from llm.hosts.arrays import repeat as repeat
from llm.hosts.arrays import spread as spread
from llm.hosts.folder import check_one_folder as check_one_folder
from llm.hosts.joining import joined as joined
from llm.hosts.line import Gone as Gone
from llm.hosts.places import check_alone as check_alone
from llm.hosts.settings import HostSettings as HostSettings
from llm.hosts.together import HERE as HERE
from llm.hosts.together import agree as agree
from llm.hosts.together import alone as alone
from llm.hosts.together import check_same as check_same
from llm.hosts.together import count as count
from llm.hosts.together import each_own as each_own
from llm.hosts.together import from_first as from_first
from llm.hosts.together import gather as gather
from llm.hosts.together import in_turn as in_turn
from llm.hosts.together import index as index
from llm.hosts.together import is_first as is_first
from llm.hosts.together import is_shared as is_shared
from llm.hosts.together import share as share
