"""The words whose vectors the demo draws: two meanings in computing and in law, or one in both."""

AMBIGUOUS: dict[str, tuple[str, str]] = {
    "程序": ("program", "procedure"),
    "执行": ("run code", "enforce"),
    "协议": ("protocol", "agreement"),
    "文件": ("file", "official document"),
    "窗口": ("window on a screen", "service counter"),
    "命令": ("command to type", "order of an authority"),
    "对象": ("object in a program", "whom it concerns"),
    "权限": ("permission bits", "authority"),
    "环境": ("runtime", "nature"),
    "代理": ("proxy", "agent"),
    "目录": ("directory", "catalogue"),
    "证书": ("TLS certificate", "diploma, licence"),
}
"""Word → what it mostly means in computing, and in law."""

CONTROLS: dict[str, str] = {
    "时间": "time",
    "需要": "need",
    "使用": "use",
    "问题": "problem",
    "部分": "part",
    "同时": "at the same time",
    "情况": "situation",
    "增加": "increase",
    "方式": "way",
    "包括": "include",
    "内容": "content",
    "重要": "important",
}
"""Words that mean the same in both: how far their vectors part shows what the domain alone does."""
