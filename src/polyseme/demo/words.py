"""The words whose vectors the demo draws: two meanings in computing and in law, or one in both."""

AMBIGUOUS: dict[str, tuple[str, str]] = {
    "程序": ("program", "procedure"),
    "执行": ("run", "enforce"),
    "协议": ("protocol", "agreement"),
    "文件": ("file", "document"),
    "窗口": ("window", "counter"),
    "命令": ("command", "order"),
    "对象": ("object", "target"),
    "权限": ("permission", "authority"),
    "环境": ("runtime", "nature"),
    "代理": ("proxy", "agent"),
    "目录": ("directory", "catalogue"),
    "证书": ("certificate", "licence"),
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
