//! What Bindery keeps on disk. It knows text sections, checksums and files; it knows no SIP.
